"""Other trainers' files: their keys as tables of data, and readers that turn a file into settings of ours."""

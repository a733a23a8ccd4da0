"""The Gradio user interface: a form over the config file, and a view of runs that go on without it."""

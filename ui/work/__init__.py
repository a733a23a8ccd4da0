"""What the UI has done for it: trainings, the queue and looks at data, each in a process of its own."""

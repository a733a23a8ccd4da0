"""The pages: their controls, and what happens when somebody uses them."""

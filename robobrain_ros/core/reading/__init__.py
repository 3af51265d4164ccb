"""Parse the model's text: answers to spatial tasks, plans and free text."""

"""Read what the model wrote: answers to spatial tasks, plans and free text."""

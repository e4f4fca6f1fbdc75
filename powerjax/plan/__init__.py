"""What a run will take, before it starts: memory, tokens and hours."""

"""What a method evaluates, where and filtered how; batches and segments to go with it."""

"""Finding tickets: by iterative, gradual or one-shot pruning."""

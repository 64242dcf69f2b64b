"""Training: `recipes` says what is trained and how, `trainer` does it, `state` resumes it and `log` writes it down."""

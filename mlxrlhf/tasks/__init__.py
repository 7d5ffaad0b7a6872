"""The task bank: requests with tests and answers, and how answers to them are judged."""

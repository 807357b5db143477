"""What listeners did since the training: events in a database that several services share."""

"""What a user plays now: attention over the latest songs, familiarity, trends; fitted without looking ahead."""

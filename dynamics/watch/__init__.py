"""The live page: runs followed from their records, served on loopback or written as one file. No torch here."""

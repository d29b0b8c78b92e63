"""The page: runs read into a study, sections that show it, one HTML file. No torch here."""

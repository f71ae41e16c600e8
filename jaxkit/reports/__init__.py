"""What a person looks at: the report of some runs in one HTML file, and the live dashboard over all of them."""

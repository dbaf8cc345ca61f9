"""Reports as single HTML files: nothing in them is fetched from elsewhere."""

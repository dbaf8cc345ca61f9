"""The ops page: one HTML shell that holds no data, and the files it loads."""

"""What comes from elsewhere: files, hub repositories, servers."""

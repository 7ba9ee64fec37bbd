"""What has been computed: cells, domains, endfeet and connections, and how many there are."""

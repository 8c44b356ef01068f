"""The store and the leadership of a swarm with several managers, on etcd's v3 API."""

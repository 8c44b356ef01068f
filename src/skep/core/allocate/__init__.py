"""Numbers: subnets, addresses, VNIs, virtual IPs and published ports."""

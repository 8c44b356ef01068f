"""skepd: picks adapters and wires them."""

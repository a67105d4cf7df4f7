"""What touches the world: the runtime, cgroups, addresses, the content store."""

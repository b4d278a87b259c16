"""What a map costs, and which path is taken for it; nothing here computes one."""

"""Tools: from typed functions and from schemas, what stands in front of a call, what comes of one."""

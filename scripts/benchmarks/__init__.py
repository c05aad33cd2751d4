"""The parts of scripts/bench: the machine (host), what is shared (payload), who has it and behind which links (swarm),
who is measured (clients, readers), what is measured (scenarios), and what comes of it (goals, table, svg)."""

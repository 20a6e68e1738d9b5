"""How large packs may be: policies, the worker's side and the monitor's."""

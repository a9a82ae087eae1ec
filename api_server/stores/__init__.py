"""One file per backing service. Drivers live here and nowhere else; their errors end here too."""

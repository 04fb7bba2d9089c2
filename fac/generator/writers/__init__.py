"""What writes candidates, one file each; `fac.config.WRITERS` finds them."""

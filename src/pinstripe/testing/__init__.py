"""What tests of pinstripe and of programs that use it need; nothing in the package itself imports this."""

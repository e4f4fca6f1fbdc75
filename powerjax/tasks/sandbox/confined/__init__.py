"""What runs inside the sandbox: the tests, the program under test, and the data between them."""

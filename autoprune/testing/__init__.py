"""Contract suites, fakes and made-up problems, for our tests and for plug-in authors."""

"""Where adapters are picked and processes put together, and the plan -> act loop they run."""

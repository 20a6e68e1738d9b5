"""The coordinator: feed and finish, the steps of a job, and the process that runs them."""

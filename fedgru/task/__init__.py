"""Check-ins to a task: vocabulary, features, clients, streams, prior, model shapes."""

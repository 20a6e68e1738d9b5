"""What tests share: waiting, a server, fakes at the seams, and a worker without a model."""

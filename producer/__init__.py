"""What submits work and reads results. Works without torch.

from producer import Client
"""

from producer.client import Client

__all__ = ["Client"]

"""The nearest peers: other libraries that run one program on several backends or devices."""

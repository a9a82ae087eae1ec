"""llm-serving-stack: a private replacement for the OpenAI API on your own machine."""

__version__ = "0.1.0"

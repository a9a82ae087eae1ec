"""Wire shapes. Fields that OpenAI does not know pass through to the engine on purpose."""

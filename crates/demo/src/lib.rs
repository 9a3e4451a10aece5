//! The built-in model: the weights of a small Qwen-Image and the program that trained them

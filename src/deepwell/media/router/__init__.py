"""The router: what a request asks for, an answer in text, an image, speech, a transcription, or several of them."""

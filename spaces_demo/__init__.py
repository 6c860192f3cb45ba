"""The Gradio app: `python -m videoxl.spaces_demo --model DIR`. This folder is a Hugging Face Space as it stands."""

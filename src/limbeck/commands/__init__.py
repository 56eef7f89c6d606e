"""The subcommands of `limbeck`, one file each; texts.py turns words into objects, console.py prints."""

"""Guards: edits that act while the model runs. The weights hold everything; whoever drops the guard has it back."""

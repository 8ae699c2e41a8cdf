"""The pages of the app, a file a page; `app.py` navigates between them.

A page reads stored runs through `workbench.pages.frame` and draws with `workbench.figures*`; it computes nothing and
needs no model. The shape of a page:

    \"\"\"Depth: how deep the knowledge still lies.\"\"\"

    from workbench.figures import compare_layers
    from workbench.pages.frame.chosen import chosen
    from workbench.pages.frame.picture import head, missing, picture

    KEY = "depth_score"

    def page() -> None:
        run = chosen().run                                  # Run A; stops with a card when there is none
        head("Patching depth", "Can the base still read the answers from this model's states?")
        for key in run.keys(KEY):                           # depth_score.forget, depth_score.near, ...
            traces = run.traces(key)                        # role -> Trace, with Run B as a role of its own
            picture(compare_layers(traces, run.words(key), traces["checkpoint"].units, None), key)
        if not run.keys(KEY):
            missing(run, "depth_score.forget")              # a card with the command that would make it

    if __name__ == "__main__":
        page()

Streamlit runs a page as `__main__`, so importing one draws nothing.
"""

"""Value vectors before and after: how much of each one's direction and of its top tokens is left, a mark a vector.

Read it as: top right is untouched; the reference's marks say where a model lies that never learned the facts.
Does not show: which token a vector writes, nor whether the answer is written elsewhere.
"""

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from workbench.figures_style import describes, finish, look_of, number, plain


def vector_scatter(moved: Mapping[str, pd.DataFrame], k: int) -> go.Figure:
    """Jaccard index of the top tokens over the cosine, each against the base's vector.

    Args:
        moved: role -> what `workbench.vector_moves.moves` found.
        k: how many top tokens were compared.
    """
    figure, said = go.Figure(), []
    for position, (role, table) in enumerate(moved.items()):
        look = look_of(role, position)
        figure.add_scatter(
            x=table["cosine"],
            y=table["Jaccard"],
            name=plain(role),
            mode="markers",
            cliponaxis=False,
            marker={"color": look.color, "symbol": look.marker, "size": 9, "opacity": 0.75},
            customdata=[
                [plain(name), length] for name, length in table[["vector", "length after / before"]].to_numpy()
            ],
            meta=describes("", role, "cosine", "Jaccard", ["vector", "length after / before"]),
            hovertemplate="%{customdata[0]}<br>cosine %{x:.3g}, Jaccard %{y:.3g}, length × %{customdata[1]:.3g}"
            "<extra>" + plain(role) + "</extra>",
        )
        said.append(
            f"{role}: mean Jaccard {number(float(table['Jaccard'].mean()))}, mean cosine "
            f"{number(float(table['cosine'].mean()))} over {len(table)} vectors"
        )
    figure.update_xaxes(title_text="cosine with the base's vector")
    figure.update_yaxes(title_text=f"top {k} tokens shared (Jaccard)", range=[-0.03, 1.05])
    alt = f"Value vectors against the base's: {'; '.join(said) or 'nothing to compare'}."
    return finish(figure, "Direction and top tokens left of each vector", alt, 400)

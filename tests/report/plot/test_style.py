from dynamics.report.plot.style import TEMPLATE, looks, plain


def test_arms_never_look_alike():
    styles = looks([f"arm {i}" for i in range(20)])
    assert len(set(styles.values())) == 20
    assert len({look.colour for look in list(styles.values())[:7]}) == 7


def test_text_in_figures_carries_no_markup():
    assert plain("<b onclick='x'>") == "&lt;b onclick='x'&gt;"


def test_long_labels_of_values_that_hardly_differ_push_the_title_aside():
    axes = TEMPLATE.layout
    assert (axes.yaxis.automargin, axes.xaxis.automargin) == (True, False)

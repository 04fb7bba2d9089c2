"""Views that live in the address: what a browser sends late changes nothing, what a person chooses
does."""

from streamlit.testing.v1 import AppTest


def form() -> None:
    """A form whose widgets are gone once a result is opened, and their callbacks that come late."""
    import streamlit as st

    from fac.ui.views import get_param, param_multiselect, param_widget, set_param

    late = st.session_state.setdefault("late", {})

    def come_late() -> None:
        for key, (value, change) in late.items():
            st.session_state[key] = value
            change()

    def hold(label, options, *, key, on_change, **_):
        late[key] = st.session_state[key], on_change

    st.button("Late", on_click=come_late)
    if get_param("result", ""):
        return
    tie = param_widget("kind", "a", valid={"a", "b"}.__contains__, of_page=True)
    st.selectbox("Kind", ["a", "b"], **tie)
    hold("Kind", ["a", "b"], **tie)
    drawn, st.multiselect = st.multiselect, hold
    param_multiselect("Rows", "rows", ["x", "y"], of="it")
    st.multiselect = drawn
    param_multiselect("Rows", "rows", ["x", "y"], of="it")
    st.button("Open", on_click=set_param, args=("result", "r1"))


def params(at: AppTest) -> dict[str, str]:
    assert not at.exception, at.exception
    values = dict(at.query_params)
    return {name: "".join(values[name]) for name in values}


def test_what_widgets_send_after_they_are_gone_is_not_in_the_address():
    at = AppTest.from_function(form).run()
    at.button[1].click().run()
    assert params(at) == {"result": "r1"}
    at.button[0].click().run()
    assert params(at) == {"result": "r1"}


def test_what_a_person_chose_stays_when_it_comes_again():
    at = AppTest.from_function(form).run()
    at.selectbox[0].select("b").run()
    at.multiselect[0].select("y").run()
    at.button[1].click().run()
    at.button[0].click().run()
    assert params(at) == {"kind": "b", "rows": "y", "result": "r1"}


def test_a_choice_that_is_taken_back_before_the_page_runs_again_is_taken_back():
    def script() -> None:
        import streamlit as st

        from fac.ui.views import param_widget

        def there_and_back() -> None:
            for value in ("b", "a"):
                st.session_state[".kind"] = value
                st.session_state["change"]()

        st.button("There and back", on_click=there_and_back)
        tie = param_widget("kind", "a")
        st.session_state["change"] = tie["on_change"]
        st.selectbox("Kind", ["a", "b"], **tie)

    at = AppTest.from_function(script).run()
    at.button[0].click().run()
    assert params(at) == {"kind": "a"}
    assert at.selectbox[0].value == "a"

"""What `streamlit run` is given.

In a folder of its own: beside a folder called `pages`, Streamlit would take each module there for a page, and run it
as a script when its address is the first that a server is asked for.
"""

from fvfast_dashboard import app

app.main()

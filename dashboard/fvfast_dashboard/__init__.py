"""The dashboard of fvfast (Streamlit)."""

"""Charts: what they show as data, and the drawing of a page without scripts. `static/charts.js` draws the same data."""

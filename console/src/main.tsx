import { render } from "preact";
import { App } from "./app";
import { followTheme } from "./state/theme";
import "./styles/base.css";
import "./styles/parts.css";
import "./styles/shell.css";

followTheme();
const root = document.getElementById("app");
if (root) render(<App />, root);

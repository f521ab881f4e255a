import { Component, type ComponentChildren } from "preact";
import { t } from "../i18n";
import { Button } from "./Button";
import { Failure } from "./Failure";

/** Shows an error of a page in its place; the shell stays usable. */
export class Boundary extends Component<{ children: ComponentChildren }, { error: unknown }> {
  override state = { error: null as unknown };

  static override getDerivedStateFromError(error: unknown) {
    return { error };
  }

  override render() {
    if (this.state.error === null) return this.props.children;
    return (
      <div class="page">
        <h1>{t("shell.broken")}</h1>
        <Failure error={this.state.error} />
        <Button onClick={() => location.reload()}>{t("shell.reload")}</Button>
      </div>
    );
  }
}

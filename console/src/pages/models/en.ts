export const en = {
  lead: "Until then the terminal shows the models that this machine can run.",
};
